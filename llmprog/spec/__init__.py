"""Programs as YAML and JSON files: without Python, without code that runs, with every fault at its line and column."""

from llmprog.spec.files import file_entry, json_schema, load_program, read_program
from llmprog.spec.forms import dump_program, form_text, program_form, reference_form

__all__ = [
    "dump_program",
    "file_entry",
    "form_text",
    "json_schema",
    "load_program",
    "program_form",
    "read_program",
    "reference_form",
]
