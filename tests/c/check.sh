#!/bin/sh
# Checks the C side alone: every header by itself in C and C++, the examples, the SDK and the native part.
# Usage: tests/c/check.sh      Prints PASS or FAIL a check; exits non-zero when one failed.
# Needs gcc; clang and g++ are used when they are there.
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

flags="-Wall -Wextra -Werror -I$root/include"
wrap="-Wl,-Bsymbolic"
for wrapped in exit _exit _Exit quick_exit err errx verr verrx error error_at_line pthread_exit thrd_exit \
    freopen freopen64 fclose; do
    wrap="$wrap -Wl,--wrap=$wrapped"
done
libs="-Wl,--as-needed -ljansson -lsqlite3 -lssl -lcrypto -lm -lpthread"
failed=0

# check NAME COMMAND… : runs it, shows its output when it fails.
check() {
    name=$1
    shift
    if timeout 120 "$@" >"$tmp/log" 2>&1; then
        echo "PASS $name"
    else
        echo "FAIL $name"
        cat "$tmp/log"
        failed=1
    fi
}

compilers=gcc
command -v clang >/dev/null && compilers="gcc clang"

for header in include/*.h; do
    name=$(basename "$header")
    # Twice: the guard must hold. As two files: what a header defines must be safe in several.
    printf '#include <%s>\n#include <%s>\n' "$name" "$name" >"$tmp/alone.c"
    for cc in $compilers; do
        check "$name alone, $cc" $cc -std=gnu11 $flags -fsyntax-only "$tmp/alone.c"
    done
    command -v g++ >/dev/null && check "$name alone, g++" g++ -std=c++17 -x c++ $flags -fsyntax-only "$tmp/alone.c"
done

for header in include/legacy/*.h; do
    name=$(basename "$header")
    printf '#include <%s>\n#include <%s>\n' "$name" "$name" >"$tmp/alone.c"
    for cc in $compilers; do
        check "legacy/$name alone, $cc" $cc -std=gnu11 -DCWEB_MODULE_API=2 -I"$root/include/legacy" $flags -fsyntax-only "$tmp/alone.c"
    done
done

printf '#include <cweb.h>\nint other(void);\nint other(void) { return http_methods[0][0]; }\n' >"$tmp/one.c"
printf '#include <cweb.h>\nint other(void);\nint main(void) { return other() != http_methods[0][0]; }\n' >"$tmp/two.c"
check "headers in two files" gcc -std=gnu11 $flags $wrap "$tmp/one.c" "$tmp/two.c" -o "$tmp/two" $libs
check "headers in two files, run" "$tmp/two"

for cc in $compilers; do
    for example in example/*.c; do
        # A row of a table leaves the fields it does not name at zero. The libraries of `#pragma cweb link("z", "png")`.
        named=$(sed -n '/^#pragma cweb link/{s/"\([a-z0-9]*\)"/ -l\1 /g;s/^.*(\(.*\)).*$/\1/;s/,//g;p}' "$example")
        check "$example, $cc" $cc -std=gnu11 -O2 -g -fPIC -shared $flags -Wno-missing-field-initializers -Wno-unknown-pragmas "$example" \
            -o "$tmp/example.so" $wrap -Wl,-z,defs $libs $named
    done

    # The compiler of C++ that belongs to it.
    cpp=$(echo "$cc" | sed 's/^gcc/g++/; s/^clang/clang++/')
    for example in example/*.cpp; do
        command -v "$cpp" >/dev/null && check "$example, $cpp" "$cpp" -std=gnu++20 -O2 -g -fPIC -shared $flags -Wno-missing-field-initializers "$example" -o "$tmp/example.so" $wrap -Wl,-z,defs $libs
    done

    # As the server compiles modules: -Wall, no -Wextra.
    check "legacy_module, $cc" $cc -std=gnu11 -O2 -fPIC -shared -Wall -Werror -Iinclude tests/c/legacy_module.c \
        -o "$tmp/legacy.so" $wrap -Wl,-z,defs $libs

    (cd "$tmp" && openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 2 -subj /CN=test \
        >/dev/null 2>&1)
    for sanitize in "-O2" "-O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"; do
        check "sdk_test $sanitize, $cc, compile" $cc -std=gnu11 -g $sanitize $flags tests/c/sdk_test.c -o "$tmp/sdk_test" $libs
        check "sdk_test $sanitize, $cc" sh -c "cd '$tmp' && ./sdk_test"
    done

    check "faulty_module, $cc" $cc -std=gnu11 -O1 -g -fPIC -shared -Wall -Werror -Iinclude tests/c/faulty_module.c \
        -o "$tmp/faulty_module.so" $wrap $libs
    check "native_test, $cc, compile" $cc -std=gnu11 -O2 -g $flags -Isrc/abi/native tests/c/native_test.c \
        src/abi/native/*.c -o "$tmp/native_test" $libs
    check "native_test, $cc" sh -c "cd '$tmp' && ./native_test"
done

[ $failed = 0 ] && echo "all C checks passed"
exit $failed
