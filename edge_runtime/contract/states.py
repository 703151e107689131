"""What a model keeps between two runs."""

from typing import Literal

# "variables": tensors that an interpreter can reset. "resources": what only a new interpreter begins anew.
State = Literal["none", "variables", "resources"]
