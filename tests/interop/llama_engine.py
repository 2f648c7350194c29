"""llama.cpp's logits through the low-level interface of llama-cpp-python."""
import ctypes

import llama_cpp as llama
import numpy as np

from nibble import expect

SILENT = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(SILENT, ctypes.c_void_p())
llama.llama_backend_init()


def logits(path, ids):
    """Float64 [tokens, vocabulary]."""
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    expect(model, "llama.cpp does not load", path)
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = len(ids)
    settings.n_threads = settings.n_threads_batch = 1  # spinning threads are slow on a busy machine
    settings.type_k = settings.type_v = llama.GGML_TYPE_F32
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    expect(llama.llama_decode(context, batch) == 0, "llama_decode failed for", path)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    values = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(len(ids), vocab)).astype(np.float64)
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return values
