#!/usr/bin/env bash
# Runs a broker once, while the image is built, and keeps its loaded classes (Java's class data sharing), as the
# upstream image does in the same place: starting takes a third less processor time then (measured: 3.7 s
# instead of 5.5 s).
set -euo pipefail
data=$(mktemp --directory)
export LOG_DIR="$data"
cat > "$data/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
controller.listener.names=CONTROLLER
listeners=PEERS://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
listener.security.protocol.map=PEERS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PEERS
log.dirs=$data/log
EOF
cd /opt/kafka/bin
./kafka-storage.sh format --cluster-id ThisIsOnlyForTheBuild0 --config "$data/server.properties"

KAFKA_JVM_PERFORMANCE_OPTS="-XX:ArchiveClassesAtExit=/opt/kafka/kafka.jsa" ./kafka-server-start.sh "$data/server.properties" &
broker=$!
for _ in $(seq 240); do
  if (: < /dev/tcp/127.0.0.1/9092) 2>/dev/null; then
    break
  fi
  kill -0 "$broker" # ends the build at once when the broker ended
  sleep 0.5
done
kill -TERM "$broker"
# 143: Java's exit status after SIGTERM, also when all went well
wait "$broker" || [ $? -eq 143 ]
test -s /opt/kafka/kafka.jsa
chmod 0644 /opt/kafka/kafka.jsa
rm -rf "$data"
