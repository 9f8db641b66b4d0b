#!/bin/sh
# Starts one of Kafka's main classes, with the environment variables of the upstream scripts.
set -eu
export LC_ALL=C.UTF-8
# shellcheck disable=SC2086 # these variables hold several options each, as they do upstream
exec java \
  ${KAFKA_HEAP_OPTS:--Xmx256m} \
  ${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExplicitGCInvokesConcurrent} \
  ${KAFKA_LOG4J_OPTS:--Dlog4j.configuration=file:/opt/kafka/config/log4j.properties} \
  -Djava.awt.headless=true \
  ${KAFKA_OPTS:-} \
  -cp '/opt/kafka/libs/*' "$@"
