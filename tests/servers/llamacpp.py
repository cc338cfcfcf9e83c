"""llama.cpp's server on one thread, run by the Python of .servers:  python llamacpp.py MODEL.gguf PORT --alias NAME

Two threads on two busy cores make decoding ten times slower.
"""

import argparse
import time

from xllamacpp import CommonParams, Server

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("port", type=int)
parser.add_argument("--alias", required=True, help="the model's name in requests")
parser.add_argument("--slots", type=int, default=4, help="requests that are decoded together")
parser.add_argument("--context", type=int, default=8192, help="tokens, of all slots together")
given = parser.parse_args()

params = CommonParams()
params.model.path, params.port, params.model_alias = given.model, given.port, {given.alias}
params.n_parallel, params.n_ctx = given.slots, given.context
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(3600)
