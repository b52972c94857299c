"""What mkdocs does beyond its plugins: notebooks as pages, formulas as MathML."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_NOTEBOOKS = "notebooks"
_DECISIONS = "decisions"
_EXPLANATION = "Explanation"  # where the menu has them


def format_math(source: str, *_: Any, **__: Any) -> str:
    """A fence of LaTeX as MathML, which browsers draw without a script."""
    return f'<div class="math">{convert(source.strip(), display="block")}</div>'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let fences of formulas become MathML, and put every decision into the menu."""
    fence = {"name": "math", "class": "math", "format": format_math}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    decisions = sorted((Path(config.docs_dir) / _DECISIONS).glob("*.md"))
    for section in config.nav or []:
        for item in section.get(_EXPLANATION, []):
            if "Decisions" in item:
                item["Decisions"] = [f"{_DECISIONS}/{path.name}" for path in decisions]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, with the pictures that are in its outputs."""
    for path in sorted((Path(config.docs_dir) / _NOTEBOOKS).glob("*.ipynb")):
        page, pictures = read_notebook(path)
        files.append(File.generated(config, f"{_NOTEBOOKS}/{path.stem}.md", content=page))
        for name, data in pictures.items():
            files.append(File.generated(config, f"{_NOTEBOOKS}/{name}", content=data))
    return files


def read_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown.

    Args:
        path: The notebook, with its outputs.

    Returns:
        The page, and its pictures by the names that the page gives them.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What this cell draws]({name})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to notebooks, which GitHub shows, to their pages here."""
    return re.sub(r"\]\(([^)]*)\.ipynb\)", r"](\1.md)", markdown)
