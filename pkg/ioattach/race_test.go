// SPDX-License-Identifier: Apache-2.0

//go:build race

package ioattach

const raceEnabled = true // memory figures mean nothing
