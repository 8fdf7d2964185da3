"""Which files the page may read: those that Gradio stored because a visitor uploaded them, and no others."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from models.errors import BadInput

FOREIGN = "that is not a sound which was uploaded here"


class GuardedBlocks(gr.Blocks):  # type: ignore[misc]
    """Blocks whose inputs cannot name another file or an address.

    Gradio would copy what an input names into its store before the page's own code sees it; it checks the path only in
    apps that were launched, which a mounted one (6.31) never is, and addresses never.
    """

    async def preprocess_data(self, block_fn: Any, inputs: Any, state: Any, explicit_call: bool = False) -> Any:
        """Refuses before Gradio touches anything."""
        if names_foreign_file(inputs):
            raise gr.Error(FOREIGN, print_exception=False)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


def names_foreign_file(value: object) -> bool:
    """Does a document from a browser name, at any depth, a file that is not stored here?"""
    if isinstance(value, dict):
        path = value.get("path")
        return (path is not None and not is_stored(path)) or any(map(names_foreign_file, value.values()))
    return isinstance(value, list | tuple) and any(map(names_foreign_file, value))


def is_stored(path: object) -> bool:
    """Does the path, with every link followed, lie in the folder where Gradio stores uploads?"""
    if not isinstance(path, str) or "\0" in path:
        return False
    return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())


def read_stored(path: str | None) -> bytes:
    """The bytes of an uploaded sound. Raises BadInput for anything else."""
    if path is None:
        raise BadInput("no sound yet: pick a sample, upload a file or record one")
    if not is_stored(path):
        raise BadInput(FOREIGN)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput("the sound is no longer stored here: upload it again") from error
