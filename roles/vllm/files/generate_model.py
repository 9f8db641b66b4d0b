# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a tiny Llama with random weights, for trials without a download: python3 generate_model.py DIRECTORY.

It runs inside the vLLM image, which brings torch, transformers and tokenizers. What the model says has no
meaning, but the server does everything it does for a real one: chat template, tokens, streaming, metrics.
The same seed gives the same model on every host. config.json is written last and says that the rest is there.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile

VOCABULARY_SIZE = 512
HIDDEN_SIZE = 256
# 256 / 4 gives a head dimension of 64. With 16, /health stays green and the first completion kills the engine.
ATTENTION_HEADS = 4
LAYERS = 2
CONTEXT_TOKENS = 2048
SEED = 20261121

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
TRAINING_TEXT = [
    "A graphics processor multiplies many small numbers at once, which is what a language model needs.",
    "The fleet rents a machine, hardens it, deploys the services on it and says what every token cost.",
    "How many tokens per second does the server answer, and how much memory is left for the next request?",
    "Kafka keeps the events in order, the processor reads them in batches, the database stores each one once.",
    "Explain in one sentence why the sky is blue, then write a short poem about the sea and the wind.",
    "user: What is the capital of France?\nassistant: The capital of France is Paris.\n",
    "system: You are a helpful assistant.\nuser: Hello!\nassistant: Hello, how can I help you today?\n",
    "def add(first, second):\n    return first + second\n",
    "0123456789 1 2 3 10 20 100 1000 2026",
]


def write_model(directory: pathlib.Path) -> None:
    """Train the tokenizer, draw the weights and save both."""
    # The image has these, the controller does not.
    import torch  # type: ignore[import-not-found]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # type: ignore[import-not-found]
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # type: ignore[import-not-found]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every byte, so that no input is unknown
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=ATTENTION_HEADS,
        num_key_value_heads=ATTENTION_HEADS,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)


def main() -> int:
    """Write into a directory of its own first: a run that is killed leaves no half model behind."""
    target = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        write_model(work)
        files = sorted(work.iterdir(), key=lambda path: (path.name == "config.json", path.name))
        for path in files:
            partial = target / (path.name + ".partial")
            shutil.copyfile(path, partial)
            os.replace(partial, target / path.name)
    print(f"vllm: made a random model in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
