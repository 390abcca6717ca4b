# Aliases; the work is done by scripts/, which need nothing but bash and Python >= 3.11.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: docs help demo test crash faults load bench bench-peers bench-profile lint format services-up services-down

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | column -t -s '|'

demo: ## a real scenario on the embedded store, under a minute
	@scripts/demo

test: ## all checks and tests
	@scripts/test

crash: ## kill worker processes at random for 40 seconds, on each store and on RabbitMQ
	@ACTORJOBS_CRASH_SECONDS=40 scripts/test tests/system -k crash

faults: ## break RabbitMQ, PostgreSQL, connections and workers in every way that the protocol knows: fifty minutes
	@scripts/test tests/faults tests/model tests/rabbit -m 'faults or not faults'

load: ## what a dispatch adds to web requests, 200 a second: on a quiet machine
	@scripts/test tests/integrations/test_load.py -m 'load or not load'

bench: ## runs per second, on SQLite, PostgreSQL and MariaDB, alone and with RabbitMQ
	@source scripts/_env; use_environment test; with_services "$$python" -m benchmarks

bench-peers: ## the same beside other systems, which are installed into .bench: an hour or two
	@source scripts/_env; use_environment test; "$$python" -m benchmarks.peers --install
	@source scripts/_env; use_environment test; with_services "$$python" -m benchmarks.peers --json .bench/peers.json

bench-profile: ## what each stage of a run costs, in microseconds of CPU
	@source scripts/_env; use_environment test; with_services "$$python" -m benchmarks.profile

lint: ## the static checks alone
	@scripts/test --checks

docs: ## write the pages that are generated from code
	@source scripts/_env; use_environment test; "$$python" -c "from actorjobs.lifecycle import diagram; print(diagram(), end='')" > docs/lifecycle.md
	@source scripts/_env; "$$python" deploy/grafana/generate.py

format: ## format, and mend what can be mended
	@source scripts/_env; use_environment test; "$$python" -m ruff format .; "$$python" -m ruff check --fix .

services-up: ## start the servers that the tests use, and leave them running
	@scripts/services up

services-down: ## stop what services-up started
	@scripts/services down
