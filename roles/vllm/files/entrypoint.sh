#!/bin/sh
# Starts the vLLM server whose whole command line Docker hands over as arguments.
# The secrets come from files, because what stands in a command line or in the container's settings can be read by many.
set -eu

model_directory=/model
if [ "${GPUFLEET_GENERATE_MODEL:-0}" = 1 ] && [ ! -e "$model_directory/config.json" ]; then
    python3 /etc/gpufleet/generate_model.py "$model_directory"
fi

if [ ! -s /run/secrets/api_key ]; then
    echo "vllm: /run/secrets/api_key is missing or empty, and without a key anybody could use this server." \
        "Run the deployment again: it writes the key." >&2
    exit 78
fi
VLLM_API_KEY=$(cat /run/secrets/api_key)
export VLLM_API_KEY
if [ -s /run/secrets/hub_token ]; then
    HF_TOKEN=$(cat /run/secrets/hub_token)
    export HF_TOKEN
fi

exec "$@"
