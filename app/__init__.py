"""The workbench: lets people see, judge and steer the steps of `labeling`, and remembers what they decide."""
