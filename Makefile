# The README's two commands are `make demo` and `make test`; each sets itself up in .venv and needs no root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The older engine needs numpy 1 and Python 3.11 or older: it gets an environment of its own.
PYTHON_TFLITE := $(shell python3.11 -c "import sys; print(sys.executable)" 2>/dev/null)
VENV_TFLITE := .venv-tflite-runtime

.PHONY: demo test test-main test-tflite-runtime coverage lint format bench proto clean

demo: $(VENV)/.installed
	@$(BIN)/python examples/demo.py $(if $(STAY),--stay)

test: lint test-main test-tflite-runtime

# COVERAGE=1 counts coverage, too, which takes a quarter longer: CI does.
test-main: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

# What daemons, probes and commands run in processes of their own counts here, too.
coverage: $(VENV)/.installed
	printf '[run]\nbranch = true\nsource = edge_runtime, converters\nparallel = true\npatch = subprocess\n' > .coveragerc-all
	$(BIN)/python -m pytest --cov --cov-config=.coveragerc-all --cov-report=term:skip-covered --cov-fail-under=90

# The same engine tests under tflite-runtime 2.14, and HTTP with what 32-bit ARM has: no msgspec, uvloop or httptools.
# The clients of other projects, which `test-main` requires, are not installed beside it.
test-tflite-runtime: $(if $(PYTHON_TFLITE),$(VENV_TFLITE)/.installed)
ifeq ($(PYTHON_TFLITE),)
	@echo "skipped: the engine tests under tflite-runtime need python3.11 on the PATH (its last wheels are for 3.11)"
else
	EDGE_RUNTIME_REQUIRE_PEERS= $(VENV_TFLITE)/bin/python -m pytest -p no:cacheprovider tests/inference tests/transports/http
endif

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# BENCH: options of the serving benchmark, as in `make bench BENCH="--only ours,triton --seconds 2"`.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.serving $(BENCH)
	$(BIN)/python benchmarks/mqtt_outbox.py
	$(BIN)/python benchmarks/isolation.py

# What is made from the protocol's text is committed, so that no one needs protoc to install or to run.
# protoc has an environment of its own: it asks for another protobuf than the peers that the tests talk to.
PROTO := edge_runtime/transports/grpc
VENV_PROTO := .venv-proto
proto:
	$(PYTHON) -m venv $(VENV_PROTO)
	$(VENV_PROTO)/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools
	@for name in open_inference health reflection; do \
		$(VENV_PROTO)/bin/python -m grpc_tools.protoc -I $(PROTO) --descriptor_set_out=$(PROTO)/$$name.binpb \
			--pyi_out=$(PROTO) $$name.proto || exit 1; \
	done
	mv $(PROTO)/open_inference_pb2.pyi $(PROTO)/messages.pyi
	mv $(PROTO)/health_pb2.pyi $(PROTO)/health_messages.pyi
	mv $(PROTO)/reflection_pb2.pyi $(PROTO)/reflection_messages.pyi

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edge-runtime needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV_TFLITE)/.installed: pyproject.toml
	$(PYTHON_TFLITE) -m venv $(VENV_TFLITE)
	$(VENV_TFLITE)/bin/python -m pip install --quiet --disable-pip-version-check tflite-runtime==2.14.0 'numpy<2' \
		flatbuffers pillow cryptography uvicorn starlette prometheus-client paho-mqtt zeroconf ifaddr pyserial urllib3 \
		tqdm pytest pytest-timeout hypothesis
	@echo "$(CURDIR)" > $$($(VENV_TFLITE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/edge_runtime_checkout.pth
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_TFLITE) $(VENV_PROTO) .bench .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
