"""A widget's output in a page made by nbconvert, where no widget runs: what readers of a stored notebook see."""

import nbformat.v4 as notebooks
import torch
from nbconvert import HTMLExporter

from mcpkg.viz.widgets import explore_attention_losses

WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_page_without_a_kernel_shows_the_picture():
    widget = explore_attention_losses(
        torch.tensor([[[[0.5, 0.4], [0.5, 0.2]]]]), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    )
    shown = widget._repr_mimebundle_()
    output = notebooks.new_output("execute_result", shown, execution_count=1)
    page, _ = HTMLExporter().from_notebook_node(
        notebooks.new_notebook(cells=[notebooks.new_code_cell("widget", outputs=[output])])
    )
    assert WIDGET in shown and WIDGET not in page
    assert shown["image/png"] in page.replace("\n", "")
