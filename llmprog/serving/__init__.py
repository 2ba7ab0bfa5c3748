"""``llmprog serve``: backends and programs behind OpenAI's HTTP protocol, for clients that speak it already."""
