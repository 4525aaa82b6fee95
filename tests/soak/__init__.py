"""Kills training at random for as long as asked, and compares adapters byte for byte. Not part of CI."""
