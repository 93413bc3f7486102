# make demo   install what is needed and run the main job end to end
# make test   install what the tests need and run them all
VENV := .venv/bin

.PHONY: help demo test lint wheel lock clean

help:
	@sed -n 's/^# //p' Makefile

demo:
	@packaging/bootstrap.sh demo
	@$(VENV)/pilothouse demo $(ARGS)

test:
	@packaging/bootstrap.sh test
	@$(MAKE) --no-print-directory lint
	$(VENV)/python -m pytest -m "not slow"
	$(VENV)/python -m pytest -m slow

# make lint   style, import walls and types
lint:
	$(VENV)/ruff check
	$(VENV)/lint-imports
	$(VENV)/mypy

# make wheel  dist/pilothouse-*.whl
wheel:
	@packaging/bootstrap.sh test
	$(VENV)/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

# make lock   write the hashed requirement lists anew (ARGS=--upgrade: with the newest versions)
lock:
	@packaging/bootstrap.sh test
	$(VENV)/python -m pip install -q uv
	packaging/lock.sh $(ARGS)

# make clean  remove what was made here; data of the daemon stays
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
