"""Bone: block-affine updates guided by the weight itself."""

from linchain.tuners.bone.config import BoneConfig
from linchain.tuners.bone.model import BoneModel

__all__ = ["BoneConfig", "BoneModel"]
