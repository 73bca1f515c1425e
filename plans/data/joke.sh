#!/bin/sh
echo "Here is a joke from $(hostname):"
echo "Setup: Why do programmers prefer dark mode?"
sleep 1
echo "Punchline: Because light attracts bugs."
