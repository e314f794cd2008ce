# Every target does its own set-up: on a fresh machine with Python 3.11 or newer, `make demo` and `make test` are all there is to type.
BIN := .venv/bin
CODE := mqsdk adapters tests examples benchmarks

.PHONY: demo test coverage lint bench bench-log soak clean
demo: .venv/.ready ; @$(BIN)/python examples/02_flights/demo.py
# Two at once, because most of the time goes by in waiting for servers and processes; a file stays with one of them and its servers.
test: lint .venv/.brokers ; $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)
# What no test runs; it takes a third longer than the tests alone.
coverage: .venv/.brokers ; $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report= $(TESTS) && $(BIN)/coverage report --skip-covered && $(BIN)/coverage report -m --include='mqsdk/core/*'
lint: .venv/.ready ; $(BIN)/ruff check $(CODE) && $(BIN)/ruff format --check $(CODE) && $(BIN)/mypy $(CODE)
bench: .venv/.ready ; $(BIN)/python -m pip install -q --group bench && $(BIN)/python benchmarks/run.py $(ARGS)
bench-log: .venv/.ready ; $(BIN)/python -m pip install -q --group bench && $(BIN)/python benchmarks/bench_log.py $(ARGS)
soak: .venv/.brokers ; $(BIN)/python -m tests.simulation explore fleet --jobs 2 --seeds $${SOAK_SEEDS:-1000000} && SOAK_SECONDS=$${SOAK_SECONDS:-60} $(BIN)/pytest -q -s tests/faults tests/*/test_fleet.py tests/log/simfs tests/log/engine/test_sweep.py tests/log/tools/test_fuzz.py
clean: ; rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .coverage dist

.venv/.ready: pyproject.toml .ci/setup ; @sh .ci/setup
.venv/.brokers: .ci/brokers .venv/.ready ; @sh .ci/brokers
