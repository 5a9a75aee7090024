"""The contract of every version. Each version's package takes this folder as a part of itself."""
