// SPDX-License-Identifier: Apache-2.0

package exitbpf

const daemonEnv = "EMBEDCRI_EXITBPF_TEST_DAEMON"

// daemons are what the test binary does when it is executed again as a daemon.
func daemons() map[string]func() { return map[string]func(){} }
