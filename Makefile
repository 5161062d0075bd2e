# Two commands do everything on a fresh machine: make prove, make test. Neither changes the machine.
BIN := $(or $(VENV),.venv)/bin

.PHONY: prove test check docs system clean

prove:  ## the environment, then the quick proofs: live table and report
	@scripts/environment prove
	@$(BIN)/buttress prove --all --budget 90

test:  ## all tests; those that need something this machine lacks skip, and say what they want
	@scripts/environment dev
	@scripts/outsiders
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup

check:  ## style, types, import rules, documents and numbers
	@scripts/environment dev
	@$(BIN)/ruff check src tests scripts examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/docs.py --check

docs:  ## regenerates number blocks, pictures and reference pages
	@scripts/environment dev
	@$(BIN)/python scripts/docs.py

system:  ## Debian packages for the tests with real servers
	@scripts/system

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
