// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/embedcri/embedcri/pkg/config"
)

func configCommand(_ context.Context, c *config.Config, args []string) error {
	what := "show"
	if len(args) > 0 {
		what = args[0]
	}
	switch what {
	case "default":
		c = config.Default()
	case "show":
	case "check":
		if err := c.Validate(); err != nil {
			return err
		}
		fmt.Println("the configuration is valid")
		return nil
	default:
		return fmt.Errorf("config %s: want default, show or check", what)
	}
	b, err := c.TOML()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(b)
	return err
}
