// Runs named checks one after the other and reports what came of each to the server that the page is from.
async function report(checks) {
    const results = {};
    for (const [name, check] of Object.entries(checks)) {
        try {
            results[name] = await check();
        } catch (error) {
            results[name] = `${error.name}: ${error.message}`;
        }
    }
    await fetch("/report", {method: "POST", body: JSON.stringify(results)});
}

// What the test has given the page.
const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

function form(source) {
    const form = new FormData();
    form.append("code", new Blob([source]), "intruder.c");
    return form;
}
