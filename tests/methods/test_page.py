from pathlib import Path

from linchain import methods
from linchain.methods.page import methods_page


def test_the_page_in_docs_is_that_of_the_catalogue():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert page.read_text(encoding="utf-8") == methods_page()


def test_it_has_a_section_for_every_method_with_its_options():
    page = methods_page()
    for method in methods.catalogue():
        assert f": `{method.name}`\n\n    {method.equation}\n" in page
    assert "`loraplus_lr_ratio` `16`; also those of `lora`.\n" in page
    assert "`use_dora` `true` (fixed); also those of `lora` without `init_lora_weights`.\n" in page
