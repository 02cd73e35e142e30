"""The views of an image: one class for each kind, in KINDS.

`KINDS` and `OPERATIONS` are plain dicts, to which the modules of
`runtime.custom_imports` add their own. How to write a kind: `base.View`.
"""

from __future__ import annotations

from sslx.config import Choice
from sslx.data.crops import Cut as Cut
from sslx.data.views.base import KINDS as KINDS
from sslx.data.views.base import View as View
from sslx.data.views.centre import Centre as Centre
from sslx.data.views.centre import Whole as Whole
from sslx.data.views.coloured import OPERATIONS as OPERATIONS
from sslx.data.views.coloured import Coloured as Coloured
from sslx.data.views.crop import Crop as Crop
from sslx.data.views.patches import Patches as Patches
from sslx.data.views.sequence import Slot as Slot
from sslx.data.views.sequence import check as check
from sslx.data.views.sequence import colour_views as colour_views
from sslx.data.views.sequence import cut_views as cut_views
from sslx.data.views.sequence import drawn as drawn
from sslx.data.views.sequence import each as each
from sslx.data.views.sequence import make_views as make_views
from sslx.data.views.sequence import random_cuts as random_cuts
from sslx.data.views.sequence import uniforms_per_image as uniforms_per_image
from sslx.data.views.sequence import unshuffled as unshuffled

KINDS |= {"crop": Crop, "patches": Patches}
# The annotation of a view in a config: its `kind` selects the class.
VIEW = Choice("kind", KINDS, default="crop")
