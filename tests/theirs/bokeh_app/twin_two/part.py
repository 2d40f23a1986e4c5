"""What both twins have under one name."""

name = "part of two"
