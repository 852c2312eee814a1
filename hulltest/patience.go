package hulltest

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

const envPatience = "HULL_TEST_PATIENCE"

// Patient returns how long a test waits for something that takes no longer than d on a machine of people's: HULL_TEST_PATIENCE times as
// long, which an emulated one sets.
func Patient(d time.Duration) time.Duration {
	text := os.Getenv(envPatience)
	if text == "" {
		return d
	}
	factor, err := strconv.Atoi(text)
	if err != nil || factor < 1 {
		panic(fmt.Sprintf("%s=%s: want a whole number from 1 on", envPatience, text))
	}
	return time.Duration(factor) * d
}
