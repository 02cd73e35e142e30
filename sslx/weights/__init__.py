"""Weights out and in: what a run learned, for every library; and back.

`export` writes a backbone as timm, transformers, torchvision or plain files
have it; `load` starts a run from such files, from other runs, and from what
the authors of methods publish. `names` and `foreign` translate names,
`layouts` finds the backbone in a checkpoint, `facts` checks what shapes do not
tell, and `files` and `pickles` read files without running anything in them.
"""
