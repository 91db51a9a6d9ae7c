"""Simulation on the integer grid: what a device computes with integers is computed with integers, bit for bit."""
