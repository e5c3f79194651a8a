#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Reads the output of `go test -v`: prints results as they come, keeps the rest for those that fail, and fails if a test failed
# or nothing ran. What is skipped is listed, so that nobody overlooks it. What failed comes last, where a shortened log still has it.
set -uo pipefail

awk '
	/^=== (PAUSE|CONT|NAME)/ { next }
	/^=== RUN +[^\/]*$/ { text = "" } # a test of its own: what the one before has printed is done with
	/^=== RUN/ { next }
	/^--- PASS|^--- FAIL|^--- SKIP|^ok|^FAIL|^panic|^PASS/ { print; fflush() }
	{ text = text $0 "\n" }
	/^ *--- FAIL/ { failed++; names = names " " $3 }
	/^--- FAIL|^ +--- FAIL|^panic|^FAIL/ { failures = failures text; text = ""; bad = 1 }
	/^--- PASS/ { passed++; text = "" }
	/^--- SKIP/ { skipped++; text = "" }
	/^ok/ { text = "" }
	END {
		if (bad) printf "---- what failed ----\n%s%s", failures, text
		if (names) print "failed:" names
		printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
		exit (bad || !passed) ? 1 : 0
	}
'
