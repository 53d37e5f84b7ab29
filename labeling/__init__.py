"""Token-level data filtering (Rathi & Radford, arXiv 2601.21571) as a plain library.

Nothing here imports `app`, FastAPI or SQLAlchemy: paths, dataclasses, iterators and tensors
in; events (`labeling.events`) and files out.

Axis names used in jaxtyping signatures:

    batch   documents or windows in one forward pass
    pos     token positions of a padded window
    tok     tokens of a corpus or shard, documents laid end to end, special tokens left out
    d_in    width of the hooked residual stream
    d_sae   latents of the SAE
    fn      labeling functions
"""
