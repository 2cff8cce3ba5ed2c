"""What the package says that it holds."""

import linchain


def test_the_public_names_are_listed():
    assert {"BoneConfig", "LinChainConfig", "LinchainError", "fold_to_lora"} <= set(dir(linchain))
    assert dir(linchain) == sorted(linchain.__all__)
    assert all(hasattr(linchain, name) for name in dir(linchain))
