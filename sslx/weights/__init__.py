"""Export and import of weights.

`export` writes a backbone for timm, transformers or torchvision, or as plain
files. `load` starts a run from such files, from another run, or from published
checkpoints. `names` and `foreign` translate names. `layouts` finds the backbone
in a checkpoint. `facts` checks what shapes do not show. `files` and `pickles`
read files without running any code in them.
"""
