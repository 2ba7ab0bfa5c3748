"""Models that run in this process, on torch.

Who is above imports who is below, never the other way::

    backend                      an id's query string to a model that answers requests
    draft_option, editing        what is loaded or asked for besides; statistics counts what was done
    engine                       one thread that decodes what its callers ask for, together
    checkpoints/, puzzles/       models of text from files; the embedded model, its training and its measures
    text/                        prompts as tokens, tokens as text
    decoders/                    ways of writing tokens, one a file
    networks/, kernels/          what computes logits, and what torch would do with them in many passes
    caches/, sampling            keys and values kept between passes; logits to tokens
    options, models, faults      what may be asked for, the models that have a name, what is wrong with a file
"""
