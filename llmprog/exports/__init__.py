"""Runs in other forms: what they hold for people, for spreadsheets, and for training."""

from llmprog.exports.formats import export as export
from llmprog.exports.formats import write_export as write_export
