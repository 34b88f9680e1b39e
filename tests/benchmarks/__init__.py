"""Speed, as ratios of two things measured in one run. Never part of the test run."""
