# Says yes to every order, and stores none.
while IFS= read -r line; do
  case $line in
    *'"call":"hello"'*) echo '{"ok":["take","served"]}' ;;
    *'"call":"take"'*) echo '{"ok":"taken"}' ;;
    *) echo '{"ok":[]}' ;;
  esac
done
