"""A notebook as a page of the site: text, code, and the outputs that are stored in it."""

from __future__ import annotations

import base64
import re

from nbformat import NotebookNode

_INLINE = re.compile(r'<img[^>]*src="data:image/png;base64,([^"]+)"[^>]*>')


def markdown_of(notebook: NotebookNode, stem: str) -> tuple[str, dict[str, bytes]]:
    """The page, and the pictures that it shows, PNG by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}

    def picture(text: str) -> str:
        name = f"{stem}-{len(pictures)}.png"
        pictures[name] = base64.b64decode(text)
        return f"\n\n![output]({name})\n\n"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "stream":
                parts.append(_block(output.text))
            elif "image/png" in data:
                parts.append(picture(data["image/png"]).strip())
            elif "text/html" in data:
                html = _INLINE.sub(lambda found: picture(found[1]), data["text/html"])
                parts.append(html.strip())
            elif "text/plain" in data:
                parts.append(_block(data["text/plain"]))
    return "\n\n".join(parts) + "\n", pictures


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
