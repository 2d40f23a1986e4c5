"""No app, but something beside them."""

answer = 42
