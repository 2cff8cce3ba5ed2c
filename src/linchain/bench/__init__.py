"""What a training step costs on this machine: adapters side by side, as ratios, in time, memory and operations."""
