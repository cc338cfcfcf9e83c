"""llama.cpp's server, run by the Python of .servers:  python llamacpp.py MODEL.gguf PORT"""

import sys
import time

from xllamacpp import CommonParams, Server

params = CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 8192, 4, 1
params.model_alias = {"smollm2"}
server = Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(3600)
