"""The engine: QLoRA with less work a token than the PEFT path, and the same results.

`build.engine_for` reads a PEFT model and gives an engine, or says why the PEFT path must do.
"""
