"""Optimisers, with rules by parameter path: `settings`, `updates`."""

from sslx.optim.settings import Optimizer as Optimizer
from sslx.optim.settings import Rule as Rule
from sslx.optim.settings import check as check
from sslx.optim.settings import learning_rate as learning_rate
from sslx.optim.settings import peak_lr as peak_lr
from sslx.optim.updates import make as make
