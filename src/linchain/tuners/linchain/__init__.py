"""LinChain as a PEFT tuner, in PEFT's own shape: config, layer, model."""

from linchain.tuners.linchain.config import LinChainConfig
from linchain.tuners.linchain.model import LinChainModel

__all__ = ["LinChainConfig", "LinChainModel"]
