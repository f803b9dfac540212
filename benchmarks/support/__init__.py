"""Helpers of the benchmarks: servers, loads and inputs. None is run by itself."""
