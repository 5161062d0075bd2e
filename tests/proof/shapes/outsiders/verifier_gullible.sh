# Admits everybody.
while IFS= read -r line; do
  case $line in
    *'"call":"hello"'*) echo '{"ok":["admits"]}' ;;
    *) echo '{"ok":true}' ;;
  esac
done
