"""Run the notebooks and keep what they print: ``python docs/scripts/notebooks.py``."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
_TIMEOUT_S = 600


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder of its own.

    Args:
        path: The notebook.
        folder: Where it works.

    Returns:
        It, with its outputs.

    Raises:
        CellExecutionError: A cell fails.
    """
    # Commands of a cell are those of this environment.
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((here, os.environ["PATH"]))
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    settings = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=_TIMEOUT_S, kernel_name="python3", resources=settings)
    client.extra_arguments = ["--log-level=40"]  # the kernel's own words are of no use
    client.execute()
    return notebook


def keep_outputs(path: Path) -> None:
    """Run a notebook and write it with its outputs, and nothing that differs between two runs."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = run_notebook(path, Path(folder))
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = nbformat.NotebookNode()
        if "outputs" in cell:  # warnings name paths of the machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)
    sys.stdout.write(f"Written: docs/notebooks/{path.name}\n")


if __name__ == "__main__":
    for found in sorted(NOTEBOOKS.glob("*.ipynb")):
        keep_outputs(found)
