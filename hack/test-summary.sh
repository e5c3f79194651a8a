#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Reads the output of `go test -v`: prints results as they come, keeps the rest for those that fail, and fails if a test failed
# or nothing ran. What is skipped is listed, so that nobody overlooks it.
set -uo pipefail

awk '
	/^=== (RUN|PAUSE|CONT|NAME)/ { next }
	/^--- PASS|^--- FAIL|^--- SKIP|^ok|^FAIL|^panic|^PASS/ { print; fflush() }
	/^ *--- FAIL/ { failed++ }
	/^--- PASS/ { passed++ }
	/^--- SKIP/ { skipped++ }
	/^FAIL/ { bad = 1 }
	{ lines[NR] = $0 }
	END {
		if (failed || bad || !passed) {
			print "---- full output ----"
			for (i = 1; i <= NR; i++) print lines[i]
		}
		printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
		exit (failed || bad || !passed) ? 1 : 0
	}
'
