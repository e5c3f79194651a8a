// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"

	"k8s.io/klog/v2"
)

// logFlags registers klog's verbosity; its other flags are about files, which are the service manager's business.
func logFlags(f *flag.FlagSet) {
	all := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(all)
	for _, name := range []string{"v", "vmodule"} {
		fl := all.Lookup(name)
		f.Var(fl.Value, name, fl.Usage)
	}
}
