"""A Bernoulli mixture in many dimensions, whose conditionals are exact."""
