"""The same names as in the tests beside this folder, compared with torch and transformers."""
